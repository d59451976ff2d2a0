"""Reports: one self-contained HTML file per participant, for a person to look at."""
