package queues

import (
	"context"
	_ "embed" // the script
	"fmt"
	"time"
)

//go:embed lua/poison.lua
var poisonLua string

var poisonScript = newScript(poisonLua)

// PoisonField is the payload field that marks a job whose Ruby processes died by themselves: {"deaths":2,"why":…,"at":float seconds}. A job
// that has it runs alone in its process.
const PoisonField = "queueville_poison"

const (
	poisonWindow = 72 * time.Hour
	poisonKept   = 16 // deaths remembered of a job
)

// CountPoison counts the death of a process against a job that ran in it, and returns how many there were within the last 72 h, this one
// included. A death is named by the caller: counted again, after a lost reply, it counts once. The key queueville:poison:<jid> ends 72 h
// after the last death.
func (s *Store) CountPoison(ctx context.Context, jid, death string) (int, error) {
	args := append(poisonScript.begin(make([]any, 0, 8), 1),
		s.keys.own+"poison:"+jid, death, time.Now().UnixMilli(), poisonWindow.Milliseconds(), poisonKept)
	n, err := s.runInt(ctx, &poisonScript, args)
	if err != nil {
		return 0, fmt.Errorf("count death of job %s: %w", jid, err)
	}
	return int(n), nil
}
