"""How to get what the command line is built on."""

REMEDY = "pip install 'fastadam[cli]'"
