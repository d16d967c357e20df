package ruby

import (
	"errors"
	"fmt"
	"os"
)

// permission is what a process reads of its connections: until when it may open some, in ms of CLOCK_MONOTONIC and of CLOCK_REALTIME, and how many
// it may have. The zero value permits none.
type permission struct {
	steady, wall int64
	connections  int
}

// write overwrites the file in place, twice the same line of always the same length: who reads two different lines has read while it was written.
// Another file renamed over it would be simpler, but file systems write such a file to the disk first, several times a second for each process.
func (p permission) write(file string) error {
	line := fmt.Sprintf("%019d %019d %09d\n", p.steady, p.wall, p.connections)
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600) //nolint:gosec // in our private directory
	if err != nil {
		return err //nolint:wrapcheck // names the file
	}
	_, err = f.WriteAt([]byte(line+line), 0)
	return errors.Join(err, f.Close())
}
