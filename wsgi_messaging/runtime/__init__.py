"""What the process gives: native threads and locks, waiting, one value per process, the worker it is."""
