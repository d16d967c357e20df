# frozen_string_literal: true

# Work on the processor, in Ruby as Mastodon's is.
module Work
  # What JSON-LD canonicalisation is like: every node is visited, sorted, serialised and hashed, again and again.
  def self.canonical(document, rounds)
    digest = ""
    rounds.times do
      lines = []
      walk(document, "_:r#{digest[0, 8]}", lines)
      digest = OpenSSL::Digest::SHA256.hexdigest(lines.sort.join("\n"))
    end
    digest
  end

  def self.walk(node, name, lines)
    case node
    when Hash then node.sort.each { |key, value| walk(value, "#{name}/#{key}", lines) }
    when Array then node.each_with_index { |value, i| walk(value, "#{name}/#{i}", lines) }
    else lines << "<#{name}> <#{OpenSSL::Digest::SHA256.hexdigest(name)[0, 12]}> #{JSON.generate([node])} ."
    end
  end

  TAG = %r{<(/?)([a-z0-9]+)([^>]*)>}.freeze

  # What sanitising HTML is like.
  def self.sanitise(html)
    html.gsub(TAG) do
      close, tag, rest = $1, $2, $3
      next "" unless %w[p br a span].include?(tag)

      href = rest[/href="(https?:[^"]*)"/, 1]
      href ? %(<a href="#{href}" rel="nofollow noopener">) : "<#{close}#{tag}>"
    end
  end

  # Renders a status for the API.
  def self.render(status, account, rounds = 20)
    text = nil
    rounds.times do
      text = JSON.generate("id" => status.id.to_s, "uri" => status.uri, "content" => sanitise(status.text), "created_at" => status.created_at.iso8601(3),
                           "account" => {"id" => account.id.to_s, "acct" => [account.username, account.domain].compact.join("@"), "url" => account.url})
    end
    text
  end

  # Keeps this thread's processor busy for that long, counted as CPU time.
  def self.burn(milliseconds)
    clock = Process::CLOCK_THREAD_CPUTIME_ID
    limit = Process.clock_gettime(clock) + (milliseconds / 1000.0)
    x = 0
    1000.times { x = ((x * 31) + 7) & 0xffff } while Process.clock_gettime(clock) < limit
    x
  end
end
