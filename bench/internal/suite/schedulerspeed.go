package suite

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// yardstick measures how fast the machine is just now, by a fixed piece of work: a virtual machine's processors are faster or slower by a fifth
// from one minute to the next, though none of their time is stolen (another machine on the same core, its clock rate). It counts processor time,
// not the time that passes, so whatever else runs here makes no difference beyond the caches.
type yardstick struct {
	key    *rsa.PrivateKey
	digest [sha256.Size]byte
}

const yardBits = 1024 // a signature is what deliveries do most; of this size it takes so little that looking four times a second costs nothing

func newYardstick() (*yardstick, error) {
	key, err := rsa.GenerateKey(rand.Reader, yardBits)
	if err != nil {
		return nil, fmt.Errorf("make a key to measure by: %w", err)
	}
	return &yardstick{key: key, digest: sha256.Sum256([]byte("yardstick"))}, nil
}

// once does the work once, and returns the processor seconds it took: about 0.0003. The second of two signatures is measured, for the first one
// finds the caches as others have left them.
func (y *yardstick) once() (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var took time.Duration
	for range 2 {
		began, err := threadCPU()
		if err != nil {
			return 0, err
		}
		if _, err := rsa.SignPKCS1v15(nil, y.key, crypto.SHA256, y.digest[:]); err != nil {
			return 0, fmt.Errorf("sign, to measure: %w", err)
		}
		ended, err := threadCPU()
		if err != nil {
			return 0, err
		}
		took = ended - began
	}
	return took.Seconds(), nil
}

func threadCPU() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
