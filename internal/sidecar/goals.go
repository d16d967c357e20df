package sidecar

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/queueville/queueville/scheduler"
)

// anyQueue stands for the queues that have no goal of their own.
const anyQueue = "*"

// readGoals are Mastodon's goals with those that were given in their place.
func (o *Options) readGoals(bad badFunc) scheduler.Goals {
	goals := scheduler.MastodonGoals()
	goals.Queues = maps.Clone(goals.Queues)
	if len(o.Goals) > 0 && o.Policy != string(scheduler.PolicyGoals) {
		bad("goal", "give --policy goals, or leave --goal away", "nothing goes by goals without --policy goals")
	}
	var seen []string
	for _, entry := range o.Goals {
		queue, text, ok := strings.Cut(entry, "=")
		goal, err := time.ParseDuration(text)
		if !ok || err != nil {
			bad("goal", "write QUEUE=TIME, e.g. pull=10m or default=2s", "%q is no goal", entry)
			continue
		}
		if queue != anyQueue {
			checkQueueName("goal", queue, bad)
		}
		if slices.Contains(seen, queue) {
			bad("goal", "name each queue once", "queue %q is named twice", queue)
			continue
		}
		seen = append(seen, queue)
		if goal < scheduler.ShortestGoal || goal > scheduler.LongestGoal {
			bad("goal", "use 50ms to 720h", "%q: %v is out of range", entry, goal)
			continue
		}
		if queue == anyQueue {
			goals.Default = goal
		} else {
			goals.Queues[queue] = goal
		}
	}
	return goals
}
