package activitypub

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABodyIsReadAgainFromItsArguments(t *testing.T) {
	args := `["{\"a\":\"\u00e9 \\n\"}",1,"https://a.test/inbox"]`
	d, err := ParseArgs(args)
	require.NoError(t, err)
	read := func(b *jobBody) string {
		r := b.reader()
		text, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		n, err := r.Read(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, io.EOF, "a closed body has no more")
		return string(text)
	}
	for name, b := range map[string]*jobBody{"with arguments": newJobBody(d.Body, args), "without": newJobBody(d.Body, "")} {
		for range 3 {
			require.Equal(t, d.Body, read(b), name)
		}
		require.Equal(t, b.args != "", b.text == "", name)
	}
	require.Empty(t, read(newJobBody("", args)))
}
