// Package activities builds the ActivityPub documents that deliveries carry: posts, boosts, likes, follows, edits and deletions of synthetic
// authors, as JSON of the size and shape that Mastodon sends. go-fed/activity builds them, so that a receiver that parses
// ActivityStreams strictly understands them.
//
// It is a package of its own because go-fed/activity takes a minute to compile and megabytes to link: only what makes load imports it,
// never the worker.
package activities

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-fed/activity/streams"
	"github.com/go-fed/activity/streams/vocab"
)

// Public is the audience of public posts.
const Public = "https://www.w3.org/ns/activitystreams#Public"

// Author is the account that an activity comes from.
type Author struct {
	Username  string
	URI       string // the actor's id
	Followers string // URI of its followers collection
}

// Maker builds activities. Two makers with the same seed and the same calls build the same bytes. Not safe for concurrent use.
type Maker struct {
	rng *rand.Rand
	now time.Time
}

// NewMaker makes a maker whose activities are dated from now on backwards, by minutes.
func NewMaker(seed uint64, now time.Time) *Maker {
	return &Maker{rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), now: now.UTC().Truncate(time.Second)}
}

// Create is a new public post with a few mentions, links and now and then pictures: 1 to 4 kB, most near 2.
func (m *Maker) Create(author Author, statusID int64) ([]byte, error) {
	b := m.builder()
	note := b.note(author, statusID)
	create := streams.NewActivityStreamsCreate()
	b.activity(create, author, statusURI(author, statusID)+"/activity")
	object := streams.NewActivityStreamsObjectProperty()
	object.AppendActivityStreamsNote(note)
	create.SetActivityStreamsObject(object)
	b.audience(create, author)

	return b.finish(create, decorateNote)
}

// Announce is a boost of object.
func (m *Maker) Announce(author Author, statusID int64, object string) ([]byte, error) {
	b := m.builder()
	announce := streams.NewActivityStreamsAnnounce()
	b.activity(announce, author, statusURI(author, statusID)+"/activity")
	announce.SetActivityStreamsObject(b.objectIRI(object))
	b.audience(announce, author)

	return b.finish(announce, nil)
}

// Like is a favourite of object, numbered id.
func (m *Maker) Like(author Author, id int64, object string) ([]byte, error) {
	b := m.builder()
	like := streams.NewActivityStreamsLike()
	b.bare(like, author, author.URI+"#likes/"+strconv.FormatInt(id, 10))
	like.SetActivityStreamsObject(b.objectIRI(object))

	return b.finish(like, nil)
}

// Follow is a request to follow object.
func (m *Maker) Follow(author Author, id, object string) ([]byte, error) {
	b := m.builder()
	follow := streams.NewActivityStreamsFollow()
	b.bare(follow, author, id)
	follow.SetActivityStreamsObject(b.objectIRI(object))

	return b.finish(follow, nil)
}

// Delete is the deletion of a post.
func (m *Maker) Delete(author Author, statusID int64) ([]byte, error) {
	b := m.builder()
	uri := statusURI(author, statusID)
	deletion := streams.NewActivityStreamsDelete()
	b.bare(deletion, author, uri+"#delete")
	tombstone := streams.NewActivityStreamsTombstone()
	tombstone.SetJSONLDId(b.id(uri))
	object := streams.NewActivityStreamsObjectProperty()
	object.AppendActivityStreamsTombstone(tombstone)
	deletion.SetActivityStreamsObject(object)
	to := streams.NewActivityStreamsToProperty()
	to.AppendIRI(b.url(Public))
	deletion.SetActivityStreamsTo(to)

	return b.finish(deletion, nil)
}

// DeleteActor is the deletion of the author, as sent to all known instances.
func (m *Maker) DeleteActor(author Author) ([]byte, error) {
	b := m.builder()
	deletion := streams.NewActivityStreamsDelete()
	b.bare(deletion, author, author.URI+"#delete")
	deletion.SetActivityStreamsObject(b.objectIRI(author.URI))
	to := streams.NewActivityStreamsToProperty()
	to.AppendIRI(b.url(Public))
	deletion.SetActivityStreamsTo(to)

	return b.finish(deletion, nil)
}

// Update is an edit of a post.
func (m *Maker) Update(author Author, statusID int64) ([]byte, error) {
	b := m.builder()
	note := b.note(author, statusID)
	update := streams.NewActivityStreamsUpdate()
	b.activity(update, author, fmt.Sprintf("%s#updates/%d", statusURI(author, statusID), b.published.Unix()))
	object := streams.NewActivityStreamsObjectProperty()
	object.AppendActivityStreamsNote(note)
	update.SetActivityStreamsObject(object)
	b.audience(update, author)

	return b.finish(update, decorateNote)
}

// statusURI is a post's id.
func statusURI(author Author, id int64) string {
	return author.URI + "/statuses/" + strconv.FormatInt(id, 10)
}

// builder builds one activity and keeps its first error, so that the many small steps read as a list.
type builder struct {
	rng       *rand.Rand
	published time.Time
	err       error
}

func (m *Maker) builder() *builder {
	return &builder{rng: m.rng, published: m.now.Add(-time.Duration(m.rng.IntN(600)) * time.Second)}
}

func (b *builder) url(raw string) *url.URL {
	u, err := url.Parse(raw)
	if err != nil && b.err == nil {
		b.err = err
	}

	return u
}

func (b *builder) id(raw string) vocab.JSONLDIdProperty {
	property := streams.NewJSONLDIdProperty()
	property.SetIRI(b.url(raw))

	return property
}

func (b *builder) objectIRI(raw string) vocab.ActivityStreamsObjectProperty {
	property := streams.NewActivityStreamsObjectProperty()
	property.AppendIRI(b.url(raw))

	return property
}

// acted is what every activity has.
type acted interface {
	SetJSONLDId(vocab.JSONLDIdProperty)
	SetActivityStreamsActor(vocab.ActivityStreamsActorProperty)
}

// addressed is what has a date and an audience.
type addressed interface {
	SetActivityStreamsPublished(vocab.ActivityStreamsPublishedProperty)
	SetActivityStreamsTo(vocab.ActivityStreamsToProperty)
	SetActivityStreamsCc(vocab.ActivityStreamsCcProperty)
}

// bare sets id and actor.
func (b *builder) bare(a acted, author Author, id string) {
	a.SetJSONLDId(b.id(id))
	actor := streams.NewActivityStreamsActorProperty()
	actor.AppendIRI(b.url(author.URI))
	a.SetActivityStreamsActor(actor)
}

// activity sets id, actor and date.
func (b *builder) activity(a interface {
	acted
	addressed
}, author Author, id string,
) {
	b.bare(a, author, id)
	published := streams.NewActivityStreamsPublishedProperty()
	published.Set(b.published)
	a.SetActivityStreamsPublished(published)
}

// audience makes it public, copied to the followers.
func (b *builder) audience(a addressed, author Author) {
	to := streams.NewActivityStreamsToProperty()
	to.AppendIRI(b.url(Public))
	a.SetActivityStreamsTo(to)
	cc := streams.NewActivityStreamsCcProperty()
	cc.AppendIRI(b.url(author.Followers))
	a.SetActivityStreamsCc(cc)
}

// note is the post itself.
func (b *builder) note(author Author, statusID int64) vocab.ActivityStreamsNote {
	uri := statusURI(author, statusID)
	note := streams.NewActivityStreamsNote()
	note.SetJSONLDId(b.id(uri))
	published := streams.NewActivityStreamsPublishedProperty()
	published.Set(b.published)
	note.SetActivityStreamsPublished(published)
	attributed := streams.NewActivityStreamsAttributedToProperty()
	attributed.AppendIRI(b.url(author.URI))
	note.SetActivityStreamsAttributedTo(attributed)
	page := streams.NewActivityStreamsUrlProperty()
	page.AppendIRI(b.url(strings.Replace(uri, "/users/", "/@", 1)))
	note.SetActivityStreamsUrl(page)
	b.audience(note, author)
	tags, mentioned := b.mentions()
	if len(mentioned) > 0 {
		note.SetActivityStreamsTag(tags)
		for _, account := range mentioned {
			note.GetActivityStreamsCc().AppendIRI(b.url(account))
		}
	}
	content := streams.NewActivityStreamsContentProperty()
	content.AppendXMLSchemaString(b.html(mentioned))
	note.SetActivityStreamsContent(content)
	if b.rng.IntN(4) == 0 {
		note.SetActivityStreamsAttachment(b.pictures())
	}

	return note
}

// mentions draws up to three accounts; most posts have none.
func (b *builder) mentions() (vocab.ActivityStreamsTagProperty, []string) {
	tags := streams.NewActivityStreamsTagProperty()
	var accounts []string
	for range max(b.rng.IntN(6)-2, 0) {
		name := words[b.rng.IntN(len(words))]
		account := "https://elsewhere.test/users/" + name
		mention := streams.NewActivityStreamsMention()
		href := streams.NewActivityStreamsHrefProperty()
		href.Set(b.url(account))
		mention.SetActivityStreamsHref(href)
		label := streams.NewActivityStreamsNameProperty()
		label.AppendXMLSchemaString("@" + name + "@elsewhere.test")
		mention.SetActivityStreamsName(label)
		tags.AppendActivityStreamsMention(mention)
		accounts = append(accounts, account)
	}

	return tags, accounts
}

// html is the text: 10 to 90 words with the mark-up that Mastodon writes around mentions.
func (b *builder) html(mentioned []string) string {
	var text strings.Builder
	text.WriteString("<p>")
	for _, account := range mentioned {
		name := account[strings.LastIndexByte(account, '/')+1:]
		fmt.Fprintf(&text, `<span class="h-card" translate="no"><a href="%s" class="u-url mention">@<span>%s</span></a></span> `, account, name)
	}
	for i := range 10 + b.rng.IntN(81) {
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(words[b.rng.IntN(len(words))])
	}
	text.WriteString(".</p>")

	return text.String()
}

// pictures attaches one to three pictures with descriptions.
func (b *builder) pictures() vocab.ActivityStreamsAttachmentProperty {
	attachments := streams.NewActivityStreamsAttachmentProperty()
	for range 1 + b.rng.IntN(3) {
		document := streams.NewActivityStreamsDocument()
		page := streams.NewActivityStreamsUrlProperty()
		page.AppendIRI(b.url(fmt.Sprintf("https://files.local.test/media_attachments/files/%018x/original.jpeg", b.rng.Uint64())))
		document.SetActivityStreamsUrl(page)
		media := streams.NewActivityStreamsMediaTypeProperty()
		media.Set("image/jpeg")
		document.SetActivityStreamsMediaType(media)
		name := streams.NewActivityStreamsNameProperty()
		name.AppendXMLSchemaString(strings.Join([]string{"Picture of", words[b.rng.IntN(len(words))], "and", words[b.rng.IntN(len(words))]}, " "))
		document.SetActivityStreamsName(name)
		attachments.AppendActivityStreamsDocument(document)
	}

	return attachments
}

// finish serialises an activity; decorate, if not nil, adds what is Mastodon's own.
func (b *builder) finish(activity vocab.Type, decorate func(map[string]any)) ([]byte, error) {
	if b.err != nil {
		return nil, fmt.Errorf("build activity: %w", b.err)
	}
	document, err := streams.Serialize(activity)
	if err != nil {
		return nil, fmt.Errorf("serialise activity: %w", err)
	}
	if decorate != nil {
		decorate(document)
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false) // Ruby does not, and the sizes should be right
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("encode activity: %w", err)
	}

	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// decorateNote adds the terms that Mastodon defines beside ActivityStreams, which go-fed does not know. They are a good part of a
// real post's bytes.
func decorateNote(document map[string]any) {
	document["@context"] = []any{document["@context"], map[string]string{
		"ostatus": "http://ostatus.org#", "atomUri": "ostatus:atomUri", "inReplyToAtomUri": "ostatus:inReplyToAtomUri",
		"conversation": "ostatus:conversation", "sensitive": "as:sensitive", "toot": "http://joinmastodon.org/ns#",
		"votersCount": "toot:votersCount", "blurhash": "toot:blurhash", "Hashtag": "as:Hashtag",
	}}
	note, ok := document["object"].(map[string]any)
	if !ok {
		return
	}
	note["atomUri"] = note["id"]
	note["inReplyTo"] = nil
	note["inReplyToAtomUri"] = nil
	note["sensitive"] = false
	note["summary"] = nil
	note["conversation"] = fmt.Sprintf("tag:local.test,2026:objectId=%v:objectType=Conversation", note["id"])
	note["contentMap"] = map[string]any{"en": note["content"]}
	note["replies"] = map[string]any{
		"id": fmt.Sprint(note["id"], "/replies"), "type": "Collection",
		"first": map[string]any{
			"type": "CollectionPage", "partOf": fmt.Sprint(note["id"], "/replies"), "items": []any{},
			"next": fmt.Sprint(note["id"], "/replies?only_other_accounts=true&page=true"),
		},
	}
}

// words is what the posts are about. Some need more than one byte a letter: bytes and characters must not be confused.
var words = strings.Fields(`harbour lantern orchard violet tram granite kettle meadow thunder ferry copper willow saffron compass
	attic marble gravel otter juniper parade cellar linen tide ember quarry heron bakery tunnel violin balcony café naïve Straße
	smörgåsbord jalapeño piñata crème über señor façade 海 夜 ветер река звезда λόγος 🚋 🌧️ and or the of with under over beyond against
	because slowly again tonight perhaps never almost together yesterday somewhere`)
