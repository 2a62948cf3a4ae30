SELECT "AirlineID", sum(cancelled) AS cancelled
FROM cancelled_flights
GROUP BY "AirlineID"
ORDER BY 2 DESC, 1
LIMIT 5
