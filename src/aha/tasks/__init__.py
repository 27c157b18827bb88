"""Tasks: where problems come from, how they are asked, and which are held out."""
