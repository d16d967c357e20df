package activitypub_test

import (
	"fmt"

	"github.com/queueville/queueville/activitypub"
)

func ExampleParseArgs() {
	d, err := activitypub.ParseArgs(`["{\"type\":\"Like\"}",109,"https://Example.social/inbox",{"bypass_availability":true}]`)
	fmt.Println(d.Body, d.AccountID, d.InboxURL, d.Options.BypassAvailability, err)
	// Output: {"type":"Like"} 109 https://Example.social/inbox true <nil>
}

func ExampleDestination() {
	dest, err := activitypub.Destination(`["{\"type\":\"Like\"}",109,"https://Example.social:443/inbox",{}]`)
	fmt.Println(dest, err)
	// Output: example.social <nil>
}

func ExampleRetryDelay() {
	for count := range 4 {
		fmt.Println(activitypub.RetryDelay(count, func() float64 { return 0.5 }))
	}
	// Output:
	// 15s
	// 16s
	// 35s
	// 1m56s
}
