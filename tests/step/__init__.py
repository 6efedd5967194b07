"""What one step is: its bits, its scalars, its plan, and interrupts."""
