package simulate

import "github.com/queueville/queueville/loadtest/world"

// event is something that will happen to a task, or a timer if task is negative. 16 bytes: millions of them pass through the heap each second.
type event struct {
	at   int64  // ns of virtual time
	seq  uint32 // order among equals
	task int32
}

func (e event) before(o event) bool {
	return e.at < o.at || e.at == o.at && int32(e.seq-o.seq) < 0
}

// events is a heap of four children per node: half the depth of a binary one, and a node's children share a cache line.
type events []event

func (h *events) push(e event) {
	*h = append(*h, e)
	s := *h
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(s[up]) {
			break
		}
		s[i] = s[up]
		i = up
	}
	s[i] = e
}

func (h *events) pop() event {
	s := *h
	top := s[0]
	n := len(s) - 1
	last := s[n]
	s = s[:n]
	*h = s
	i := 0
	for {
		child := 4*i + 1
		if child >= n {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, n); c++ {
			if s[c].before(s[least]) {
				least = c
			}
		}
		if !s[least].before(last) {
			break
		}
		s[i] = s[least]
		i = least
	}
	if n > 0 {
		s[i] = last
	}
	return top
}

// dueJob is a job that waits for a time.
type dueJob struct {
	at   int64
	seq  uint64
	job  world.Job
	held bool // was not tried: its destination is down
}

// dueJobs is a binary heap by time, then by order of arrival.
type dueJobs []dueJob

func (d *dueJob) before(o *dueJob) bool { return d.at < o.at || d.at == o.at && d.seq < o.seq }

func (h *dueJobs) push(d dueJob) {
	*h = append(*h, d)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[i].before(&s[up]) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *dueJobs) pop() dueJob {
	s := *h
	top := s[0]
	n := len(s) - 1
	s[0] = s[n]
	s[n] = dueJob{}
	s = s[:n]
	*h = s
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if s[c].before(&s[least]) {
				least = c
			}
		}
		if least == i {
			return top
		}
		s[i], s[least] = s[least], s[i]
		i = least
	}
}
