package simulate

import "github.com/queueville/queueville/loadtest/world"

// ring is a FIFO that grows by doubling and shrinks when it is mostly empty, so that a backlog of the past costs no memory.
type ring[T any] struct {
	items []T
	head  int
	count int
}

func (r *ring[T]) len() int { return r.count }

func (r *ring[T]) push(v T) {
	if r.count == len(r.items) {
		r.resize(max(16, 2*len(r.items)))
	}
	r.items[(r.head+r.count)&(len(r.items)-1)] = v
	r.count++
}

// unshift puts v before all others.
func (r *ring[T]) unshift(v T) {
	if r.count == len(r.items) {
		r.resize(max(16, 2*len(r.items)))
	}
	r.head = (r.head - 1) & (len(r.items) - 1)
	r.items[r.head] = v
	r.count++
}

func (r *ring[T]) peek() *T { return &r.items[r.head] }

// at is the item with i before it.
func (r *ring[T]) at(i int) *T { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *ring[T]) pop() T {
	var zero T
	v := r.items[r.head]
	r.items[r.head] = zero
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.count--
	if len(r.items) > 4096 && r.count < len(r.items)/8 {
		r.resize(len(r.items) / 4)
	}
	return v
}

// resize moves the items into a slice of n, a power of two.
func (r *ring[T]) resize(n int) {
	items := make([]T, n)
	for i := range r.count {
		items[i] = r.items[(r.head+i)&(len(r.items)-1)]
	}
	r.items, r.head = items, 0
}

type jobRing = ring[world.Job]
