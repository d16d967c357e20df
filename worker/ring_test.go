package worker

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRingAgainstASlice(t *testing.T) {
	all := make([]*destination, 50)
	for i := range all {
		all[i] = &destination{}
	}
	var r ring
	var want []*destination
	for range 20_000 {
		switch d := all[rand.IntN(len(all))]; {
		case rand.IntN(20) == 0:
			r.remove(d)
			if i := slices.Index(want, d); i >= 0 {
				want = slices.Delete(want, i, i+1)
			}
		case len(want) > 0 && rand.IntN(2) == 0:
			require.Same(t, want[0], r.pop())
			want = want[1:]
		case !slices.Contains(want, d):
			r.push(d)
			want = append(want, d)
		}
		require.Equal(t, len(want) == 0, r.empty())
		require.Equal(t, len(want), len(r.list)-r.head)
	}
	require.LessOrEqual(t, cap(r.list), 256)
}
