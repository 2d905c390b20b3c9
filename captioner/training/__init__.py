"""Training: settings, runs and their folders, the loop over steps, recipes and objectives."""
