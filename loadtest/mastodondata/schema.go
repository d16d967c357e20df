package mastodondata

// schemaSQL creates the tables. Columns are those that deliveries, key choice and followers synchronisation read, and the ones
// without which an insert of Mastodon's would fail; their types, defaults and indexes are as in db/schema.rb of the line.
func (l Line) schemaSQL() string {
	sql := `
CREATE TABLE schema_migrations (version varchar NOT NULL PRIMARY KEY);
CREATE TABLE ar_internal_metadata (key varchar NOT NULL PRIMARY KEY, value varchar,
  created_at timestamp(6) NOT NULL, updated_at timestamp(6) NOT NULL);
CREATE TABLE accounts (
  id bigint NOT NULL PRIMARY KEY,
  username varchar NOT NULL DEFAULT '',
  domain varchar,
  private_key text,
  public_key text NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  note text NOT NULL DEFAULT '',
  display_name varchar NOT NULL DEFAULT '',
  uri varchar` + l.uriColumn() + `,
  url varchar,
  locked boolean NOT NULL DEFAULT false,
  inbox_url varchar NOT NULL DEFAULT '',
  outbox_url varchar NOT NULL DEFAULT '',
  shared_inbox_url varchar NOT NULL DEFAULT '',
  followers_url varchar NOT NULL DEFAULT '',
  protocol integer NOT NULL DEFAULT 0,
  memorial boolean NOT NULL DEFAULT false,
  moved_to_account_id bigint,
  actor_type varchar,
  silenced_at timestamp,
  suspended_at timestamp,
  suspension_origin integer,
  indexable boolean NOT NULL DEFAULT false`
	if l.hasSchemes() {
		sql += `,
  id_scheme integer DEFAULT 1,
  following_url varchar NOT NULL DEFAULT ''`
	}
	if l.hasKeypairs() {
		sql += `,
  requested_deletion_at timestamp(6)`
	}
	sql += `
);
CREATE UNIQUE INDEX index_accounts_on_username_and_domain_lower ON accounts (lower(username), COALESCE(lower(domain), ''));
CREATE INDEX index_accounts_on_domain_and_id ON accounts (domain, id);
CREATE ` + l.uriIndex() + ` INDEX index_accounts_on_uri ON accounts (uri);
CREATE TABLE users (
  id bigserial PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  email varchar NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  current_sign_in_at timestamp,
  confirmed_at timestamp,
  disabled boolean NOT NULL DEFAULT false,
  approved boolean NOT NULL DEFAULT true,
  settings text,
  locale varchar
);
CREATE INDEX index_users_on_account_id ON users (account_id);
CREATE TABLE follows (
  id bigserial PRIMARY KEY,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  target_account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  show_reblogs boolean NOT NULL DEFAULT true,
  uri varchar,
  notify boolean NOT NULL DEFAULT false,
  languages varchar[]
);
CREATE UNIQUE INDEX index_follows_on_account_id_and_target_account_id ON follows (account_id, target_account_id);
CREATE INDEX index_follows_on_target_account_id ON follows (target_account_id` + l.followsIndexTail() + `);
CREATE TABLE unavailable_domains (
  id bigserial PRIMARY KEY,
  domain varchar NOT NULL DEFAULT '',
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL
);
CREATE UNIQUE INDEX index_unavailable_domains_on_domain ON unavailable_domains (domain);
CREATE TABLE account_deletion_requests (
  id bigserial PRIMARY KEY,
  account_id bigint REFERENCES accounts ON DELETE CASCADE,
  created_at timestamp(6) NOT NULL,
  updated_at timestamp(6) NOT NULL
);
CREATE INDEX index_account_deletion_requests_on_account_id ON account_deletion_requests (account_id);
CREATE TABLE domain_blocks (
  id bigserial PRIMARY KEY,
  domain varchar NOT NULL DEFAULT '' UNIQUE,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  severity integer DEFAULT 0
);
CREATE TABLE settings (
  id bigserial PRIMARY KEY,
  var varchar NOT NULL UNIQUE,
  value text,
  created_at timestamp,
  updated_at timestamp
);
CREATE TABLE relays (
  id bigserial PRIMARY KEY,
  inbox_url varchar NOT NULL DEFAULT '',
  follow_activity_id varchar,
  created_at timestamp NOT NULL,
  updated_at timestamp NOT NULL,
  state integer NOT NULL DEFAULT 0
);
`
	if l.hasKeypairs() {
		sql += `
CREATE TABLE keypairs (
  id bigserial PRIMARY KEY,
  account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
  uri varchar,
  type integer NOT NULL,
  public_key varchar NOT NULL,
  private_key varchar,
  expires_at timestamp(6),
  revoked boolean NOT NULL DEFAULT false,
  local_fragment varchar,
  created_at timestamp(6) NOT NULL,
  updated_at timestamp(6) NOT NULL
);
CREATE UNIQUE INDEX index_keypairs_on_uri ON keypairs (uri);
CREATE UNIQUE INDEX index_keypairs_on_account_id_and_local_fragment ON keypairs (account_id, local_fragment);
`
	}

	return sql
}

// uriColumn: NOT NULL DEFAULT ” until 4.6, nullable since 4.7.
func (l Line) uriColumn() string {
	if l.hasKeypairs() {
		return ""
	}

	return " NOT NULL DEFAULT ''"
}

// uriIndex: unique since 4.7, when local accounts' ” became NULL.
func (l Line) uriIndex() string {
	if l.hasKeypairs() {
		return "UNIQUE"
	}

	return ""
}

// followsIndexTail: the second column since 4.5.
func (l Line) followsIndexTail() string {
	if l.hasSchemes() {
		return ", account_id"
	}

	return ""
}
