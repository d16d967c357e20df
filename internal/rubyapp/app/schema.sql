-- What the application needs besides the tables that deliveries use.
CREATE TABLE IF NOT EXISTS statuses (
  id bigserial PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  uri varchar,
  text text NOT NULL DEFAULT '',
  digest varchar,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS index_statuses_on_uri ON statuses (uri) WHERE uri IS NOT NULL;
CREATE TABLE IF NOT EXISTS account_stats (
  id bigserial PRIMARY KEY,
  account_id bigint NOT NULL UNIQUE REFERENCES accounts ON DELETE CASCADE,
  statuses_count bigint NOT NULL DEFAULT 0,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL
);
-- Some statuses for jobs to work with, ids 1 to 100.
INSERT INTO statuses (account_id, uri, text, created_at, updated_at)
  SELECT (SELECT min(id) FROM accounts), 'https://local.test/statuses/' || n, repeat('<p>lantern <a href="https://tag.test/y">orchard</a></p>', 12), now(), now()
  FROM generate_series(1, 100) n
  ON CONFLICT DO NOTHING;
