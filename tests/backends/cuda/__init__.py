"""The CUDA backend: under the simulator, with a stand-in for the driver, as machine code, on a GPU."""
