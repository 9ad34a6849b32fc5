"""Batches here are small: threads would cost more than they bring, here and in the processes that tests start."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
