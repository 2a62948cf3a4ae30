SELECT page, sum(edits) AS edits FROM pages GROUP BY page ORDER BY edits DESC, page LIMIT 10
