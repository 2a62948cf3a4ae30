SELECT sum(n) AS n FROM sides
