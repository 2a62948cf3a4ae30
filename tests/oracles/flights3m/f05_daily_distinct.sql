SELECT window_start, origins, destinations, routes FROM flights_by_day ORDER BY window_start
