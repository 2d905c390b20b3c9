"""Inside the recurrent network: `units` what its units follow, `gradients` how far back a loss reaches."""
