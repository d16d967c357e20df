package dbpool

import (
	"crypto/rand"
	"errors"
	"os"
	"strings"
)

// Kin lets neighbours see that a process and all child processes that had reservations are gone. It is a name that the kernel keeps for as
// long as one of them lives, however they end: each child inherits File. Without it a lease with reservations that was not given back is over only
// after the wait for children that nobody can see. The name is a socket in the abstract namespace, to which nobody can connect.
type Kin struct {
	file *os.File
	name string
}

var errNoKin = errors.New("processes cannot be seen to be gone here")

const kinBytes = 16 // of a name

// NewKin takes a name. It fails where there are no such names (outside of Linux) or sockets cannot be made.
func NewKin() (*Kin, error) {
	net := network()
	if net == "" || machine() == "" {
		return nil, errNoKin
	}
	name := net + "-" + strings.ToLower(rand.Text()[:kinBytes])
	f, err := holdName(name)
	if err != nil {
		return nil, err
	}
	return &Kin{file: f, name: name}, nil
}

// File is what every child process that gets a reservation has to inherit, and every process that it starts in turn; they need not read it. nil of
// a nil Kin.
func (k *Kin) File() *os.File {
	if k == nil {
		return nil
	}
	return k.file
}

// Close lets this process's hold of the name go; that of children stays.
func (k *Kin) Close() error {
	if k == nil {
		return nil
	}
	return k.file.Close()
}

// kinGone is true when a process certainly does not run any more, and no child of it either.
func kinGone(process string) bool {
	fields := strings.Split(process, ":")
	if len(fields) != 4 || !processGone(process) {
		return false
	}
	net, own, _ := strings.Cut(fields[3], "-")
	if net == "" || net != network() || len(own) != kinBytes {
		return false // names of another network namespace are not to be seen from here
	}
	f, err := holdName(fields[3])
	if err != nil {
		return false // somebody has it
	}
	return f.Close() == nil
}
