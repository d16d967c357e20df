package faultproxy

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/queueville/queueville/internal/redistest"
)

func start(t *testing.T) (*Proxy, *redis.Client, *redis.Client) {
	t.Helper()
	addr, db, direct := redistest.DB(t)
	p, err := Start(t.Context(), addr)
	require.NoError(t, err)
	through := redistest.NewClient(p.Addr(), db)
	t.Cleanup(func() {
		require.NoError(t, through.Close())
		require.NoError(t, p.Close())
	})
	return p, through, direct
}

func TestLostReplyWasCarriedOut(t *testing.T) {
	p, through, direct := start(t)
	require.NoError(t, through.Set(t.Context(), "k", 1, 0).Err())
	p.LoseReplies(func(b []byte) bool { return bytes.Contains(b, []byte("incr")) })
	require.Error(t, through.Incr(t.Context(), "k").Err())
	p.LoseReplies(nil)
	n, err := direct.Get(t.Context(), "k").Int()
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, 1, p.Lost())
	require.NoError(t, through.Incr(t.Context(), "k").Err(), "a new connection works")
}

func TestCutAndRefuse(t *testing.T) {
	p, through, _ := start(t)
	require.NoError(t, through.Ping(t.Context()).Err())
	p.Refuse(true)
	p.Cut()
	require.Error(t, through.Ping(t.Context()).Err())
	p.Refuse(false)
	require.Eventually(t, func() bool { return through.Ping(context.WithoutCancel(t.Context())).Err() == nil }, 20*time.Second, 5*time.Millisecond)
}

func TestDelay(t *testing.T) {
	p, through, _ := start(t)
	require.NoError(t, through.Ping(t.Context()).Err())
	p.Delay(50 * time.Millisecond)
	began := time.Now()
	require.NoError(t, through.Ping(t.Context()).Err())
	require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
}
