-- Three million flights of half a year in the United States, in order of time. Rows have no key and some are equal.

CREATE SOURCE flights3m (
  date TIMESTAMP NOT NULL,
  delay BIGINT NOT NULL,
  distance BIGINT NOT NULL,
  origin TEXT NOT NULL,
  destination TEXT NOT NULL,
  WATERMARK FOR date AS date - INTERVAL '1 minute'
) WITH (connector = 'http', partitions = 2, partition_by = 'origin');

-- f01, f05
CREATE MATERIALIZED VIEW flights_by_day AS
SELECT window_start, count(*) AS n, sum(delay) AS delay, sum(distance) AS distance, min(delay) AS mn, max(delay) AS mx,
       count(DISTINCT origin) AS origins, count(DISTINCT destination) AS destinations,
       count(DISTINCT origin || '-' || destination) AS routes
FROM flights3m
GROUP BY tumble(date, INTERVAL '1 day');

-- f02
CREATE MATERIALIZED VIEW hubs_by_hour AS
SELECT window_start, origin, count(*) AS n, sum(delay) AS delay, max(delay) AS mx
FROM flights3m
WHERE origin IN ('ATL', 'ORD', 'DFW', 'LAX')
GROUP BY tumble(date, INTERVAL '1 hour'), origin;

-- f07
CREATE MATERIALIZED VIEW origin_stats AS
SELECT origin, count(*) AS n, min(delay) AS mn, max(delay) AS mx, sum(delay) AS s, sum(delay * delay) AS s2,
       avg(delay) AS avg, stddev_samp(delay) AS sd, var_pop(delay) AS vp
FROM flights3m
GROUP BY origin;

-- f08
CREATE MATERIALIZED VIEW late_by_month_origin AS
SELECT date_trunc('month', date) AS month, origin, count(*) AS n, max(delay) AS mx
FROM flights3m
WHERE delay > 60
GROUP BY date_trunc('month', date), origin
HAVING count(*) >= 20;

-- f09
CREATE MATERIALIZED VIEW routes AS
SELECT origin, destination, count(*) AS n, sum(delay) AS delay, min(distance) AS mn_dist, max(distance) AS mx_dist
FROM flights3m
GROUP BY origin, destination;

-- f10: Monday is 1.
CREATE MATERIALIZED VIEW flights_by_weekday_hour AS
SELECT extract(isodow FROM date) AS dow, extract(hour FROM date) AS hr, count(*) AS n, sum(delay) AS delay
FROM flights3m
GROUP BY extract(isodow FROM date), extract(hour FROM date);

-- f12
CREATE MATERIALIZED VIEW punctuality_by_hour AS
SELECT window_start, count(*) FILTER (WHERE delay < 0) AS early, count(*) FILTER (WHERE delay = 0) AS ontime,
       count(*) FILTER (WHERE delay > 0) AS late,
       round(CAST(count(*) FILTER (WHERE delay > 0) AS DOUBLE) / count(*), 6) AS ratio
FROM flights3m
GROUP BY tumble(date, INTERVAL '1 hour');

-- f14
CREATE MATERIALIZED VIEW totals AS
SELECT count(*) AS n, min(date) AS t_min, max(date) AS t_max, sum(delay) AS delay, sum(distance) AS distance,
       min(delay) AS mn, max(delay) AS mx, count(DISTINCT origin) AS origins,
       count(DISTINCT destination) AS destinations
FROM flights3m;
