"""Inside the recurrent network: `units` finds what its units respond to, `gradients` how far back a loss reaches."""
