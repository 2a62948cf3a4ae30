SELECT "DaysSinceEpoch", "Carrier", flights, n_arr, arr_delay
FROM flights_by_day_carrier
ORDER BY "DaysSinceEpoch", "Carrier"
