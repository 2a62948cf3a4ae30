SELECT repo_name, n, types FROM repos ORDER BY n DESC, repo_name LIMIT 20
