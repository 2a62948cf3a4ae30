SELECT side, n, distance FROM sides ORDER BY side
