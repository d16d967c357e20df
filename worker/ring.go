package worker

import "slices"

// ring is a queue of destinations that needs no memory of its own while it turns.
type ring struct {
	list []*destination
	head int // list[head:] are in the ring
}

func (r *ring) empty() bool { return r.head == len(r.list) }

func (r *ring) push(d *destination) {
	if len(r.list) == cap(r.list) && r.head > len(r.list)/2 { // the room in front comes before more memory
		n := copy(r.list, r.list[r.head:])
		clear(r.list[n:])
		r.list, r.head = r.list[:n], 0
	}
	r.list = append(r.list, d)
}

// pop takes the next one; the ring is not empty.
func (r *ring) pop() *destination {
	d := r.list[r.head]
	r.list[r.head] = nil
	r.head++
	if r.empty() {
		r.list, r.head = r.list[:0], 0
	}
	return d
}

func (r *ring) remove(d *destination) {
	if i := slices.Index(r.list[r.head:], d); i >= 0 {
		r.list = slices.Delete(r.list, r.head+i, r.head+i+1)
	}
}
