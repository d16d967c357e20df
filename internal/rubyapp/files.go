package rubyapp

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/queueville/queueville/internal/rubyapp/app"
)

const schemaFile = "schema.sql"

// Write writes the application's files into dir, which is made if need be, without .env.production. It returns the path of the stand-in for
// Bundler, to be first in PATH as bundle.
func Write(dir string) (bundle string, err error) { return app.Write(dir) }

// Prepare makes the tables that the application needs besides those of loadtest/mastodondata, which are there already.
func Prepare(ctx context.Context, conn *pgx.Conn) error {
	text, err := app.Files.ReadFile(schemaFile)
	if err != nil {
		return fmt.Errorf("prepare the ruby application's tables: %w", err)
	}
	if _, err := conn.Exec(ctx, string(text)); err != nil {
		return fmt.Errorf("prepare the ruby application's tables: %w", err)
	}
	return nil
}

// Gems are the Ruby libraries that the application needs, as their Debian packages are called after ruby-.
func Gems() []string { return []string{"sidekiq", "activerecord", "activejob", "pg"} }
