"""Training: settings, the run and its folder, the loop over steps, the recipes, and what is minimised."""
