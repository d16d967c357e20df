package queues

import (
	"context"
	"crypto/sha1" //nolint:gosec // Redis names scripts by their SHA-1
	_ "embed"     // the scripts
	"encoding/hex"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/register.lua
var registerLua string

//go:embed lua/renew.lua
var renewLua string

//go:embed lua/fetch.lua
var fetchLua string

//go:embed lua/shared.lua
var sharedLua string

//go:embed lua/complete.lua
var completeLua string

//go:embed lua/unbatch.lua
var unbatchLua string

//go:embed lua/giveback.lua
var givebackLua string

//go:embed lua/forget.lua
var forgetLua string

//go:embed lua/due.lua
var dueLua string

//go:embed lua/unlist.lua
var unlistLua string

// The scripts. Their KEYS, ARGV and returns are documented in the files.
var (
	registerScript = newScript(registerLua)
	renewScript    = newScript(renewLua)
	fetchScript    = newScript(fetchLua)
	sharedScript   = newScript(sharedLua)
	completeScript = newScript(completeLua)
	unbatchScript  = newScript(unbatchLua)
	givebackScript = newScript(givebackLua)
	forgetScript   = newScript(forgetLua)
	dueScript      = newScript(dueLua)
	unlistScript   = newScript(unlistLua)
)

type script struct{ source, sha string }

func newScript(source string) script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // see above
	return script{source: source, sha: hex.EncodeToString(sum[:])}
}

// begin starts the argument list of a call: name of the command, hash, number of keys.
func (s *script) begin(args []any, keys int) []any { return append(args, "EVALSHA", &s.sha, keys) }

// run sends the command that was made from begin's list; again with the source when Redis does not know the script (it
// has not run then). fresh makes a command of the type that reads the reply.
func (s *script) run(ctx context.Context, client redis.UniversalClient, args []any, fresh func([]any) redis.Cmder) error {
	return s.with(args, func(args []any) error { return client.Process(ctx, fresh(args)) })
}

// with is run with a way to send of the caller's own.
func (s *script) with(args []any, send func(args []any) error) error {
	err := send(args)
	if err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") {
		args[0], args[1] = "EVAL", s.source
		err = send(args)
	}
	return err
}
