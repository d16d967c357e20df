package dbpool

import (
	"errors"
	"strings"
	"testing"

	"github.com/queueville/queueville/internal/redistest"
)

func TestBudgetIsStoredOnceAndChangedByAPerson(t *testing.T) {
	for name, namespace := range map[string]string{"without a namespace": "", "with one": "ns"} {
		t.Run(name, func(t *testing.T) {
			client := redistest.Client(t)
			l := NewLedger(client, namespace, "social.example")
			ctx := t.Context()
			if _, err := l.Budget(ctx); !errors.Is(err, ErrNoBudget) {
				t.Fatalf("Budget() of an empty ledger = %v, want ErrNoBudget", err)
			}
			got, err := l.SetBudget(ctx, Budget{Connections: 180, MinPerHost: 3, SetBy: "discovered", Reason: "200 − 20"}, SetOptions{OnlyIfUnset: true})
			if err != nil || got.Connections != 180 || got.MinPerHost != 3 || got.Serial != 1 || got.SetAt.IsZero() || got.Reason != "200 − 20" {
				t.Fatalf("SetBudget = %+v, %v", got, err)
			}
			if got, err = l.SetBudget(ctx, Budget{Connections: 90, SetBy: "discovered"}, SetOptions{OnlyIfUnset: true}); err != nil || got.Connections != 180 {
				t.Errorf("a second discovery = %+v, %v, want the first one's", got, err)
			}
			if got, err = l.SetBudget(ctx, Budget{Connections: 90, SetBy: "alice"}, SetOptions{}); err != nil || got.Connections != 90 || got.Serial != 2 || got.SetBy != "alice" {
				t.Errorf("a person's = %+v, %v", got, err)
			}
			if _, err := NewLedger(client, namespace, "other").SetBudget(ctx, Budget{Connections: 9}, SetOptions{}); !errors.Is(err, ErrCluster) {
				t.Errorf("another cluster's = %v, want ErrCluster", err)
			}
			keys, err := client.Keys(ctx, "*").Result()
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				want := "queueville:dbpool:"
				if namespace != "" {
					want = "queueville:ns:dbpool:"
				}
				if !strings.HasPrefix(k, want) {
					t.Errorf("key %q", k)
				}
			}
		})
	}
}

func TestBadBudgetIsRefusedWithItsSum(t *testing.T) {
	l := NewLedger(redistest.Client(t), "", "c")
	tests := map[string]struct {
		budget  Budget
		options SetOptions
		want    string
	}{
		"zero":                  {Budget{}, SetOptions{}, "must be between 1 and 32768"},
		"negative":              {Budget{Connections: -3}, SetOptions{}, "must be between 1 and 32768"},
		"negative minimum":      {Budget{Connections: 9, MinPerHost: -1}, SetOptions{}, "minimum per host is -1"},
		"no room for one host":  {Budget{Connections: 9, MinPerHost: 8}, SetOptions{}, "minimum 8 + 2 kept to confirm with = 10, more than 9"},
		"above max_connections": {Budget{Connections: 80}, SetOptions{MaxConnections: 100, Reserved: 3, Others: 20}, "100 − 3 reserved − 20 that others can hold = 77, less than 80"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := l.SetBudget(t.Context(), test.budget, test.options)
			if e, ok := errors.AsType[*BudgetError](err); !ok || !strings.Contains(err.Error(), test.want) {
				t.Errorf("SetBudget = %v (%T), want %q", err, e, test.want)
			}
		})
	}
	if _, err := l.Budget(t.Context()); !errors.Is(err, ErrNoBudget) {
		t.Errorf("after refusals Budget = %v, want ErrNoBudget", err)
	}
}
