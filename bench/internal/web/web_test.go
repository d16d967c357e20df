package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/queueville/queueville/bench/internal/web"
)

// Visits come at their rate, each takes at least the processor time of a request, and the same seed gives the same moments.
func TestVisits(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(ctx, 2*time.Millisecond, writer) }()
	url, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var lists [2][]web.Visit
	for i := range lists {
		var out bytes.Buffer
		if err := web.Open(ctx, strings.TrimSpace(url), 40, 500*time.Millisecond, 3, &out); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &lists[i]); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(lists[0]); n < 8 || n > 40 || n != len(lists[1]) {
		t.Errorf("%d and %d visits of 20 in half a second", n, len(lists[1]))
	}
	for _, v := range lists[0] {
		if v.Took < 0.002 {
			t.Errorf("a visit took %v s, its processor time is 2 ms", v.Took)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Burn ends by the clock.
func TestBurnEnds(t *testing.T) {
	t.Parallel()
	start := time.Now()
	web.Burn(t.Context(), 50*time.Millisecond)
	if took := time.Since(start); took < 40*time.Millisecond || took > 2*time.Second {
		t.Errorf("took %v, want 50 ms", took)
	}
}
