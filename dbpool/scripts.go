package dbpool

import (
	_ "embed" // the scripts

	"github.com/redis/go-redis/v9"
)

//go:embed lua/begin.lua
var beginLua string

//go:embed lua/budget.lua
var budgetLua string

//go:embed lua/sync.lua
var syncLua string

//go:embed lua/judge.lua
var judgeLua string

// The scripts. Their KEYS, ARGV and returns are documented in the files; each begins with begin.lua.
var (
	budgetScript = redis.NewScript(beginLua + budgetLua)
	syncScript   = redis.NewScript(beginLua + syncLua)
	judgeScript  = redis.NewScript(beginLua + judgeLua)
)
