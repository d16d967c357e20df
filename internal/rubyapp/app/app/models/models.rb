# frozen_string_literal: true

class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true
  self.inheritance_column = nil
end

class Account < ApplicationRecord
  has_many :statuses

  # Parsed for every use, as Mastodon does.
  def public_rsa
    pem = public_key.presence || Keypair.where(account_id: id).order(:id).pick(:public_key)
    pem && OpenSSL::PKey::RSA.new(pem)
  end
end

class Keypair < ApplicationRecord
end

class Status < ApplicationRecord
  belongs_to :account
end

class Follow < ApplicationRecord
end
