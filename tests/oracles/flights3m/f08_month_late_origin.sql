SELECT month AS window_start, origin, n, mx FROM late_by_month_origin ORDER BY month, origin
