package peers

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/queueville/queueville/activitypub"
)

// Signed is what a run of bare signatures was.
type Signed struct {
	Signer string  `json:"signer"`
	CPU    float64 `json:"cpu_us"` // per signature
	Count  int     `json:"count"`
}

// Sign makes nothing but signatures for the given time, in as many goroutines, and prints a Signed. cpu is a clock of this process.
func Sign(ctx context.Context, useGo bool, threads int, length time.Duration, cpu func() (time.Duration, error), out io.Writer) error {
	signer, name := activitypub.NewSigner()
	if useGo {
		signer, name = activitypub.GoSigner{}, "crypto/rsa"
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	key, err := signer.NewKey(private)
	if err != nil {
		return fmt.Errorf("prepare key: %w", err)
	}
	before, err := cpu()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, length)
	defer cancel()
	counts := make([]int, threads)
	var wg sync.WaitGroup
	for i := range threads {
		wg.Go(func() {
			var digest [32]byte
			for ctx.Err() == nil {
				digest[0]++
				if _, err := key.SignSHA256(digest); err != nil {
					return
				}
				counts[i]++
			}
		})
	}
	wg.Wait()
	after, err := cpu()
	if err != nil {
		return err
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	if total == 0 {
		return fmt.Errorf("%s signed nothing", name)
	}
	return json.NewEncoder(out).Encode(Signed{name, float64((after - before).Microseconds()) / float64(total), total})
}
