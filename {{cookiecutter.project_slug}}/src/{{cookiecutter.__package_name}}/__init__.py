"""The research code of this project; `train.py` tells the story from top to bottom."""
