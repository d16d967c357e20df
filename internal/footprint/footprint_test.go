package footprint

import (
	"bufio"
	"crypto/sha256"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const smaps = `00400000-01e00000 r-xp 00001000 fe:00 42 /usr/bin/queueville
Rss:               20480 kB
Private_Dirty:       100 kB
Anonymous:             0 kB
01e00000-01e01000 r--p 01a00000 fe:00 42 /usr/bin/queueville
Rss:                   4 kB
Private_Dirty:         4 kB
Anonymous:             4 kB
01e01000-01e41000 rw-p 01a01000 fe:00 42 /usr/bin/queueville
Rss:                 256 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
01f00000-02000000 r--p 01b00000 fe:00 42 /usr/bin/queueville
Rss:                 100 kB
Swap:                  8 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Rss:                4096 kB
7f0000000000-7f0000200000 r-xp 00000000 fe:00 43 /usr/lib/libc.so.6
Rss:                1024 kB
Anonymous:             0 kB
`

func TestCleanMappings(t *testing.T) {
	t.Parallel()
	read := func(text string) ([]mapping, error) {
		return cleanMappings(bufio.NewScanner(strings.NewReader(text)), "/usr/bin/queueville")
	}
	list, err := read(smaps)
	require.NoError(t, err)
	require.Equal(t, []mapping{{start: 0x400000, end: 0x1e00000, resident: 20 << 20}}, list, "what was changed, or can be, or is another's, stays")
	_, err = read("nonsense r-xp 0 0 0 /usr/bin/queueville\n")
	require.Error(t, err)
	_, err = read("400000-500000 r-xp 0 0 0 /usr/bin/queueville\nRss: much kB\n")
	require.Error(t, err)
	list, err = read("\n\x00 \nRss: 5 kB\n")
	require.NoError(t, err)
	require.Empty(t, list)
}

// The program goes on, and has fewer pages.
func TestForgetStartup(t *testing.T) {
	if _, err := os.Stat("/proc/self/smaps"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("no /proc")
	}
	resident := func() (sum int64) {
		program, err := os.Readlink("/proc/self/exe")
		require.NoError(t, err)
		file, err := os.Open("/proc/self/smaps")
		require.NoError(t, err)
		defer func() { require.NoError(t, file.Close()) }()
		list, err := cleanMappings(bufio.NewScanner(file), program)
		require.NoError(t, err)
		for _, m := range list {
			sum += m.resident
		}
		return sum
	}
	before := resident()
	require.Positive(t, before)
	got, err := ForgetStartup()
	require.NoError(t, err)
	require.InDelta(t, before, got, float64(before)/2)
	require.Less(t, resident(), before)
	words := strings.Fields("the program still works")
	slices.Sort(words)
	require.NotZero(t, sha256.Sum256([]byte(strings.Join(words, " "))))
}
