# Set-up, the same in every notebook. Colab starts without the course: there, the cell fetches and installs it.
import os, subprocess, sys

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads sleep and leave the CPU to other programs
if "google.colab" in sys.modules and not os.path.isdir("../gptlib"):
    address = os.environ.get("COURSE_ADDRESS", "https://github.com/gpt-course/gpt-course")
    fetch = f"(test -d course || git clone --depth 1 {address} course) && {sys.executable} -m pip install -q --no-deps ./course"
    failed, reason = subprocess.getstatusoutput(fetch)
    assert not failed, f"Fetching the course failed. Run this cell again in a minute. The reason:\n{reason}"
    os.chdir("course/notebooks")

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import gptlib
from gptlib import plot

print("Ready.")
