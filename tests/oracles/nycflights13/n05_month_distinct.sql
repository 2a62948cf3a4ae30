SELECT month AS window_start, tails, dests, flights FROM distinct_by_month ORDER BY month
