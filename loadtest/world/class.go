package world

import "time"

// Queues of Mastodon, as config/sidekiq.yml lists them. (fasp is left out: it is empty unless an experiment is switched on.)
const (
	QueueDefault = iota
	QueuePush
	QueueIngress
	QueueMailers
	QueuePull
	QueueScheduler
	Queues // how many there are
)

// QueueNames are the queues' names, by number.
var QueueNames = [Queues]string{"default", "push", "ingress", "mailers", "pull", "scheduler"}

// QueueWeights are their weights there.
var QueueWeights = [Queues]int{8, 6, 4, 2, 1, 1}

// QueueNumber finds a queue by name; −1 when Mastodon has no such queue.
func QueueNumber(name string) int {
	for i, n := range QueueNames {
		if n == name {
			return i
		}
	}
	return -1
}

// Net is whom a job talks to beyond the server's own machines.
type Net uint8

// Kinds of far sides.
const (
	NetNone     Net = iota
	NetDelivery     // a POST to the destination's inbox
	NetFetch        // a GET from an instance
	NetWeb          // a GET from any site: link cards
	NetPush         // a web push service
	NetMail         // the mail server
)

// Backoff is the family of a class's retry delays (spec/mastodon.md §1).
type Backoff uint8

// Families of retry delays.
const (
	BackoffSidekiq     Backoff = iota // count⁴ + 15 s and jitter
	BackoffExponential                // 15 + 10·count⁴ + rand(10·count⁴), and jitter
	BackoffDelivery                   // count⁴ + 15 + rand(0.5·count⁴), and jitter
)

// Class is a job class: where it goes, how it is retried, and what one run costs in Ruby. Costs are means; a run's own are drawn around them.
type Class struct {
	Name    string
	Variant string // what the job is about, where that decides what it costs; shown beside the name
	Queue   uint8
	Retries uint8 // after the first run
	Dead    bool  // goes to the dead set when they are used up
	Backoff Backoff

	CPU     time.Duration // under Ruby's lock
	Native  time.Duration // processor time outside of it: ffmpeg, libvips
	DB      time.Duration // work of PostgreSQL
	Queries int           // round trips to it
	Net     Net
	Bytes   int           // of the payload in Redis, about
	Sigma   float64       // deviation of the logarithm of CPU, DB and Native
	GoCPU   time.Duration // the same run in a native handler; 0: there is none
}

// ClassID is a class by number.
type ClassID uint8

// The classes that a model's events lead to. Those of spec/mastodon.md §1 that are not here are below 1 % of jobs on an ordinary server.
const (
	FeedInsert ClassID = iota
	Delivery
	LowDelivery
	ProcessCreate
	ProcessMedia
	ProcessAnnounce
	ProcessLike
	ProcessDelete
	ProcessFollow
	ProcessOther
	Distribution
	FederatedDistribution
	RawDistribution
	UpdateDistribution
	LinkCrawl
	ThreadResolve
	FetchReplies
	FetchReply
	MentionResolve
	ResolveAccount
	RemoteAccountRefresh
	RedownloadMedia
	LocalNotification
	PushUpdate
	WebPush
	Mail
	Merge
	Regeneration
	BootstrapTimeline
	Removal
	AuthorizeFollow
	PostProcessMedia
	AccountDeletion
	TriggerWebhook
	SchedulerSmall
	SchedulerTrends
	Classes // how many there are
)

const ms = time.Millisecond

// always25 is Sidekiq's default number of retries.
const always25 = 25

// ClassTable are the classes. Processor and database times are engineering estimates for Rails on one core of a current server, except
// deliveries, which docs/benchmarks.md has measured without Rails; docs/loadtest.md says how each came about. They are scaled by Costs.
var ClassTable = [Classes]Class{
	FeedInsert:            {Name: "FeedInsertWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 3500 * time.Microsecond, DB: 1500 * time.Microsecond, Queries: 4, Bytes: 230, Sigma: 0.5},
	Delivery:              {Name: "ActivityPub::DeliveryWorker", Queue: QueuePush, Retries: 16, Backoff: BackoffDelivery, CPU: 9 * ms, DB: 1500 * time.Microsecond, Queries: 4, Net: NetDelivery, Bytes: 4200, Sigma: 0.3, GoCPU: 1100 * time.Microsecond},
	LowDelivery:           {Name: "ActivityPub::LowPriorityDeliveryWorker", Queue: QueuePull, Retries: 8, Backoff: BackoffDelivery, CPU: 9 * ms, DB: 1500 * time.Microsecond, Queries: 4, Net: NetDelivery, Bytes: 1200, Sigma: 0.3, GoCPU: 1100 * time.Microsecond},
	ProcessCreate:         {Name: "ActivityPub::ProcessingWorker", Variant: "Create", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 28 * ms, DB: 9 * ms, Queries: 22, Bytes: 4200, Sigma: 0.6},
	ProcessMedia:          {Name: "ActivityPub::ProcessingWorker", Variant: "Create with media", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 40 * ms, Native: 180 * ms, DB: 11 * ms, Queries: 28, Net: NetFetch, Bytes: 7000, Sigma: 0.9},
	ProcessAnnounce:       {Name: "ActivityPub::ProcessingWorker", Variant: "Announce", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 16 * ms, DB: 6 * ms, Queries: 14, Bytes: 1300, Sigma: 0.5},
	ProcessLike:           {Name: "ActivityPub::ProcessingWorker", Variant: "Like", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 9 * ms, DB: 4 * ms, Queries: 9, Bytes: 500, Sigma: 0.5},
	ProcessDelete:         {Name: "ActivityPub::ProcessingWorker", Variant: "Delete", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 6 * ms, DB: 2 * ms, Queries: 5, Bytes: 1200, Sigma: 0.5},
	ProcessFollow:         {Name: "ActivityPub::ProcessingWorker", Variant: "Follow", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 14 * ms, DB: 7 * ms, Queries: 14, Bytes: 500, Sigma: 0.5},
	ProcessOther:          {Name: "ActivityPub::ProcessingWorker", Variant: "other", Queue: QueueIngress, Retries: 8, Dead: true, CPU: 12 * ms, DB: 5 * ms, Queries: 10, Bytes: 1500, Sigma: 0.6},
	Distribution:          {Name: "DistributionWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 14 * ms, DB: 5 * ms, Queries: 7, Bytes: 230, Sigma: 0.5},
	FederatedDistribution: {Name: "ActivityPub::DistributionWorker", Queue: QueuePush, Retries: always25, Dead: true, CPU: 24 * ms, DB: 8 * ms, Queries: 8, Bytes: 230, Sigma: 0.5},
	RawDistribution:       {Name: "ActivityPub::RawDistributionWorker", Queue: QueuePush, Retries: always25, Dead: true, CPU: 8 * ms, DB: 6 * ms, Queries: 4, Bytes: 4300, Sigma: 0.5},
	UpdateDistribution:    {Name: "ActivityPub::UpdateDistributionWorker", Queue: QueuePush, Retries: always25, Dead: true, CPU: 14 * ms, DB: 8 * ms, Queries: 6, Bytes: 330, Sigma: 0.5},
	LinkCrawl:             {Name: "LinkCrawlWorker", Queue: QueuePull, CPU: 18 * ms, Native: 15 * ms, DB: 3 * ms, Queries: 4, Net: NetWeb, Bytes: 230, Sigma: 0.7},
	ThreadResolve:         {Name: "ThreadResolveWorker", Queue: QueuePull, Retries: 3, Dead: true, Backoff: BackoffExponential, CPU: 20 * ms, DB: 8 * ms, Queries: 14, Net: NetFetch, Bytes: 330, Sigma: 0.6},
	FetchReplies:          {Name: "ActivityPub::FetchRepliesWorker", Queue: QueuePull, Retries: 3, Dead: true, Backoff: BackoffExponential, CPU: 10 * ms, DB: 3 * ms, Queries: 5, Net: NetFetch, Bytes: 380, Sigma: 0.6},
	FetchReply:            {Name: "FetchReplyWorker", Queue: QueuePull, Retries: 3, Dead: true, Backoff: BackoffExponential, CPU: 22 * ms, DB: 8 * ms, Queries: 16, Net: NetFetch, Bytes: 330, Sigma: 0.6},
	MentionResolve:        {Name: "MentionResolveWorker", Queue: QueuePull, Retries: 7, Dead: true, Backoff: BackoffExponential, CPU: 15 * ms, DB: 5 * ms, Queries: 8, Net: NetFetch, Bytes: 330, Sigma: 0.6},
	ResolveAccount:        {Name: "ResolveAccountWorker", Queue: QueuePull, Retries: always25, Dead: true, CPU: 18 * ms, DB: 6 * ms, Queries: 8, Net: NetFetch, Bytes: 300, Sigma: 0.6},
	RemoteAccountRefresh:  {Name: "RemoteAccountRefreshWorker", Queue: QueuePull, Retries: 3, Dead: true, Backoff: BackoffExponential, CPU: 18 * ms, DB: 6 * ms, Queries: 8, Net: NetFetch, Bytes: 230, Sigma: 0.6},
	RedownloadMedia:       {Name: "RedownloadMediaWorker", Queue: QueuePull, Retries: 3, Dead: true, Backoff: BackoffExponential, CPU: 12 * ms, Native: 150 * ms, DB: 3 * ms, Queries: 4, Net: NetFetch, Bytes: 230, Sigma: 0.9},
	LocalNotification:     {Name: "LocalNotificationWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 9 * ms, DB: 5 * ms, Queries: 11, Bytes: 280, Sigma: 0.5},
	PushUpdate:            {Name: "PushUpdateWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 4 * ms, DB: 1 * ms, Queries: 2, Bytes: 260, Sigma: 0.5},
	WebPush:               {Name: "Web::PushNotificationWorker", Queue: QueuePush, Retries: 5, Dead: true, CPU: 7 * ms, DB: 2 * ms, Queries: 5, Net: NetPush, Bytes: 240, Sigma: 0.4},
	Mail:                  {Name: "ActionMailer::MailDeliveryJob", Queue: QueueMailers, Retries: always25, Dead: true, CPU: 30 * ms, DB: 3 * ms, Queries: 6, Net: NetMail, Bytes: 900, Sigma: 0.5},
	Merge:                 {Name: "MergeWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 14 * ms, DB: 12 * ms, Queries: 5, Bytes: 240, Sigma: 0.6},
	Regeneration:          {Name: "RegenerationWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 90 * ms, DB: 150 * ms, Queries: 40, Bytes: 400, Sigma: 0.7},
	BootstrapTimeline:     {Name: "BootstrapTimelineWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 20 * ms, DB: 15 * ms, Queries: 12, Bytes: 220, Sigma: 0.5},
	Removal:               {Name: "RemovalWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 22 * ms, DB: 16 * ms, Queries: 25, Bytes: 260, Sigma: 0.5},
	AuthorizeFollow:       {Name: "AuthorizeFollowWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 8 * ms, DB: 6 * ms, Queries: 10, Bytes: 240, Sigma: 0.4},
	PostProcessMedia:      {Name: "PostProcessMediaWorker", Queue: QueueDefault, Retries: 1, CPU: 10 * ms, Native: 1500 * ms, DB: 2 * ms, Queries: 4, Bytes: 240, Sigma: 1.0},
	AccountDeletion:       {Name: "AccountDeletionWorker", Queue: QueuePull, Retries: always25, Dead: true, CPU: 2500 * ms, DB: 3500 * ms, Queries: 600, Bytes: 420, Sigma: 0.8},
	TriggerWebhook:        {Name: "TriggerWebhookWorker", Queue: QueueDefault, Retries: always25, Dead: true, CPU: 1500 * time.Microsecond, DB: 500 * time.Microsecond, Queries: 1, Bytes: 260, Sigma: 0.3},
	SchedulerSmall:        {Name: "Scheduler::IndexingScheduler", Queue: QueueScheduler, CPU: 15 * ms, DB: 12 * ms, Queries: 8, Bytes: 300, Sigma: 0.4},
	SchedulerTrends:       {Name: "Scheduler::Trends::RefreshScheduler", Queue: QueueScheduler, CPU: 700 * ms, DB: 700 * ms, Queries: 120, Bytes: 300, Sigma: 0.4},
}

// Costs scales what jobs cost on this server against ClassTable. 0 means 1.
type Costs struct {
	CPU float64 // processor time in Ruby, and Native
	DB  float64 // work of PostgreSQL
	Net float64 // how long far sides take to answer
}

// Demand is what one run of a job takes.
type Demand struct {
	CPU, Native, DB time.Duration
	Queries         int
	GoCPU           time.Duration
}

// Demand draws what a run of job costs. The same job and attempt cost the same in every engine.
func (w *World) Demand(job *Job) Demand {
	c := &ClassTable[job.Class]
	d := NewDice(job.ID, uint64(job.Retries)<<8|1)
	size := d.LogNorm(c.Sigma)
	demand := Demand{
		CPU: scale(c.CPU, size*w.cfg.Costs.CPU), DB: scale(c.DB, size*w.cfg.Costs.DB), Queries: c.Queries,
		GoCPU: scale(c.GoCPU, size*w.cfg.Costs.CPU),
	}
	if c.Native > 0 {
		demand.Native = scale(c.Native, d.LogNorm(c.Sigma)*w.cfg.Costs.CPU)
	}
	// Fanning out costs for every job that is pushed: pushing is one pipeline per thousand, rendering its arguments is not.
	if job.Fan > 0 {
		demand.CPU += time.Duration(float64(job.Fan) * w.cfg.Costs.CPU * float64(30*time.Microsecond))
	}
	return demand
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// Delay is how long a job waits after failure number count (0 is the first): Sidekiq's formula and the class's own, without the jitter of
// Sidekiq's line, which Jitter draws.
func (c *Class) Delay(count int, d *Dice) time.Duration {
	n := float64(count)
	n4 := n * n * n * n
	var seconds float64
	switch c.Backoff {
	case BackoffExponential:
		seconds = 15 + 10*n4 + d.Float64()*10*n4
	case BackoffDelivery:
		seconds = n4 + 15 + d.Float64()*0.5*n4
	default:
		seconds = n4 + 15
	}
	// Sidekiq 8: a random whole number from 0 to 10·(count+1)−1 (spec/sidekiq-protocol.md §3.4).
	return time.Duration(seconds+float64(d.IntN(10*(count+1)))) * time.Second
}
