"""What builds the course: run and store the notebooks, stamp their set-up cell, draw the course map and the picture."""
