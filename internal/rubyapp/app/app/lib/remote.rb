# frozen_string_literal: true

# Requests to other servers, on loopback only.
#
#   RUBYAPP_REMOTE      base URL of a slow server; unset: a request is a sleep
#   RUBYAPP_REMOTE_MS   how long that sleep is; 100
module Remote
  BASE = ENV["RUBYAPP_REMOTE"]
  SLEEP = Float(ENV.fetch("RUBYAPP_REMOTE_MS", "100")) / 1000

  # GET of a path of the slow server, or of a whole URL. Returns the body.
  def self.get(target)
    return pretend(target) if BASE.nil? && !target.start_with?("http")

    uri = URI(target.start_with?("http") ? target : BASE + target)
    raise Mastodon::HostValidationError, "#{uri.host} is not loopback" unless %w[127.0.0.1 localhost].include?(uri.host)

    answer = Net::HTTP.start(uri.host, uri.port, nil, nil, use_ssl: uri.scheme == "https", open_timeout: 5, read_timeout: 30) { |http| http.get(uri.request_uri) }
    raise "#{uri} returned code #{answer.code}" unless answer.is_a?(Net::HTTPSuccess)

    answer.body
  end

  def self.pretend(target)
    sleep SLEEP
    JSON.generate("id" => target, "type" => "Note", "content" => "<p>#{target}</p>" * 20, "title" => target)
  end
end
