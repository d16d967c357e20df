package queues

import (
	"context"
	"fmt"
)

// Peek returns up to n jobs of a queue, the next to be run first, and leaves them where they are. It costs one LRANGE.
func (s *Store) Peek(ctx context.Context, queue string, n int) ([]string, error) {
	list, err := s.client.LRange(ctx, s.keys.queue(queue), int64(-n), -1).Result()
	if err != nil {
		return nil, fmt.Errorf("look at queue %s: %w", queue, err)
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}
