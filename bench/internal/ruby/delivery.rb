# frozen_string_literal: true

# What a Mastodon server does for one delivery, in a real Sidekiq process and with the libraries that Mastodon uses (pg, OpenSSL, http.rb,
# redis), but without Rails: the statements are written by hand, and Active Record's and Stoplight's own work is left out. So it is
# quicker than Mastodon, and the comparison is kind to Ruby. In an application it uses Active Record's connections, and nothing else of it.
require "sidekiq"
require "pg"
require "http"
require "openssl"
require "digest"
require "base64"
require "time"
require "uri"

Sidekiq.logger.level = Logger::WARN

# One Postgres connection for each thread, as DB_POOL is set to the concurrency.
module Statements
  def self.connection
    return ActiveRecord::Base.connection.raw_connection if defined?(ActiveRecord::Base)

    Thread.current[:database] ||= PG.connect(ENV.fetch("BENCH_DATABASE_URL"))
  end

  def self.row(sql, *params)
    connection.exec_params(sql, params).first
  end
end

# Kept connections by origin; a thread that has one checked out has it alone.
module Connections
  LOCK = Mutex.new
  IDLE = Hash.new { |hash, origin| hash[origin] = [] }

  def self.with(origin)
    client = LOCK.synchronize { IDLE[origin].pop } || HTTP.persistent(origin).timeout(connect: 5, write: 10, read: 10)
    answer = yield client
    LOCK.synchronize { IDLE[origin].push(client) }
    answer
  rescue StandardError
    client&.close
    raise
  end
end

module ActivityPub
  class DeliveryWorker
    include Sidekiq::Worker
    sidekiq_options queue: "push", retry: 16, dead: false

    AGENT = "Mastodon/4.5.0 (http.rb/5.3.1; +https://local.test/) bench-ruby"
    SIGNED = %w[host date digest content-type (request-target)].freeze
    FAILURES = "exhausted_deliveries:"
    LIGHT = "stoplight:v5:metadata:"

    def perform(json, account_id, inbox_url, options = {})
      uri = URI(inbox_url)
      unless options["bypass_availability"]
        return if Statements.row("SELECT 1 AS one FROM unavailable_domains WHERE domain = $1 LIMIT 1", uri.host)
      end
      account = Statements.row("SELECT * FROM accounts WHERE id = $1 LIMIT 1", account_id)
      Sidekiq.redis { |redis| redis.hgetall(LIGHT + inbox_url) } # the circuit breaker reads its state …
      status = post(json, account, uri)
      raise "#{inbox_url} returned code #{status}" unless (200..299).cover?(status)

      Sidekiq.redis do |redis|
        redis.hset(LIGHT + inbox_url, "consecutive_errors", 0) # … and notes a success
        redis.del(FAILURES + uri.host)
      end
      Statements.row("SELECT * FROM unavailable_domains WHERE domain = $1 LIMIT 1", uri.host)
    end

    private

    def post(json, account, uri)
      headers = {
        "User-Agent" => AGENT, "Host" => uri.host, "Date" => Time.now.utc.httpdate, "Accept-Encoding" => "gzip",
        "Content-Type" => "application/activity+json", "Digest" => "SHA-256=#{Base64.strict_encode64(Digest::SHA256.digest(json))}"
      }
      headers["Signature"] = signature(headers, account, uri)
      Connections.with(uri.origin) do |client|
        response = client.post(uri.request_uri, headers: headers, body: json) # not client.headers(…).post: that makes a new client
        response.body.to_s # a connection is kept only when the answer was read to its end
        response.status.to_i
      end
    end

    def signature(headers, account, uri)
      text = SIGNED.map do |name|
        value = name == "(request-target)" ? "post #{uri.request_uri}" : headers[name.split("-").map(&:capitalize).join("-")]
        "#{name}: #{value}"
      end.join("\n")
      key = OpenSSL::PKey::RSA.new(account["private_key"]) # parsed for each delivery, as Mastodon does
      signed = Base64.strict_encode64(key.sign(OpenSSL::Digest.new("SHA256"), text))
      %(keyId="#{key_id(account)}",algorithm="rsa-sha256",headers="#{SIGNED.join(" ")}",signature="#{signed}")
    end

    def key_id(account)
      actor = account["id_scheme"].to_i == 1 ? "ap/users/#{account["id"]}" : "users/#{account["username"]}"
      "https://local.test/#{actor}#main-key"
    end
  end
end
