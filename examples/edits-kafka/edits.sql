-- Edits of a wiki, as its software writes them to the topic "edits".

CREATE SOURCE edits (
  time   TIMESTAMP NOT NULL,
  page   TEXT NOT NULL,
  "user" TEXT,
  added  BIGINT NOT NULL,
  WATERMARK FOR time AS time - INTERVAL '2 seconds'
) WITH (connector = 'kafka', brokers = '${KAFKA_BROKERS}', topic = 'edits', format = 'json');

-- The pages, with everything that was ever done to them. A batch run every minute recomputes it from the history.
CREATE MATERIALIZED VIEW pages WITH (batch = '0 * * * * *') AS
SELECT page, count(*) AS edits, count(DISTINCT "user") AS users, sum(added) AS added, max(time) AS last_edit
FROM edits
GROUP BY page;

CREATE MATERIALIZED VIEW edits_by_ten_seconds AS
SELECT window_start, window_end, count(*) AS edits, sum(added) AS added
FROM edits
GROUP BY tumble(time, INTERVAL '10 seconds');

-- Each page's row whenever it changes, at most twice a second.
CREATE SINK page_changes FROM pages INTO 'pages'
WITH (brokers = '${KAFKA_BROKERS}', mode = 'update', trigger = '500 milliseconds');

-- Each ten seconds once, when no more edits of them are expected.
CREATE SINK ten_seconds FROM edits_by_ten_seconds INTO 'edits-by-ten-seconds'
WITH (brokers = '${KAFKA_BROKERS}', mode = 'append');

-- What the topic has that is no edit, with the reason.
CREATE SINK dead_letters FROM edits__dead_letters INTO 'edits-dead-letters'
WITH (brokers = '${KAFKA_BROKERS}');
