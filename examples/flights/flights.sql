-- Every scheduled flight from New York's three airports in 2013, in the order in which the flights left.
-- Event time is the scheduled departure, so a delayed flight is a late event; see PROVENANCE.md for the columns.
CREATE SOURCE flights (
  scheduled_departure TIMESTAMP NOT NULL,
  departure           TIMESTAMP,            -- NULL when cancelled
  carrier             TEXT NOT NULL,
  flight              INT NOT NULL,
  tailnum             TEXT,
  origin              TEXT NOT NULL,
  dest                TEXT NOT NULL,
  dep_delay           INT,                  -- minutes; negative when early
  arr_delay           INT,                  -- minutes; NULL when cancelled or diverted
  air_time            INT,                  -- minutes
  distance            INT NOT NULL,         -- miles
  cancelled           BOOLEAN NOT NULL,
  WATERMARK FOR scheduled_departure AS scheduled_departure - INTERVAL '6 hours'
) WITH (connector = 'http', partitions = 4, partition_by = 'dest');

-- How each airport's day (UTC) went.
CREATE MATERIALIZED VIEW flights_by_day_origin
WITH (batch = '0 */5 * * * *')
AS SELECT window_start, origin,
          count(*) AS flights,
          count(*) FILTER (WHERE cancelled) AS cancelled,
          sum(dep_delay) AS dep_delay_total,
          avg(dep_delay) AS dep_delay_mean,
          max(dep_delay) AS dep_delay_max
   FROM flights
   GROUP BY tumble(scheduled_departure, INTERVAL '1 day'), origin;

-- How each airline did, over all history.
CREATE MATERIALIZED VIEW carrier_stats
WITH (batch = '0 */5 * * * *')
AS SELECT carrier,
          count(*) AS flights,
          count(*) FILTER (WHERE cancelled) AS cancelled,
          avg(arr_delay) AS arr_delay_mean,
          stddev(arr_delay) AS arr_delay_stddev,
          approx_distinct(tailnum) AS planes,
          count(DISTINCT dest) AS destinations,
          sum(distance) AS miles
   FROM flights
   GROUP BY carrier;

-- The flights that left six hours late or later: a view without an aggregate.
CREATE MATERIALIZED VIEW long_delays
WITH (batch = '0 */5 * * * *')
AS SELECT scheduled_departure, carrier, flight, origin, dest, dep_delay
   FROM flights
   WHERE dep_delay >= 360;
